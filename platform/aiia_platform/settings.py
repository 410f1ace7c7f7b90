"""Django's settings, derived from `config`."""

import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from csp.constants import NONE, SELF
from django.utils.functional import lazystr

from aiia_platform.config import config


class OptionText:
    """The value of an option as text, read when it is turned into text."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        from aiia_platform.options.models import current

        return str(current(self._name))


_config = config()
_web = Path(__file__).resolve().parents[2] / "web"

DEBUG = _config.debug
SECRET_KEY = _config.secret_key
ALLOWED_HOSTS = [
    "localhost",
    "127.0.0.1",
    "[::1]",
    *(host.strip() for host in _config.allowed_hosts.split(",") if host.strip()),
]
if _config.host not in {"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"}:  # noqa: S104
    ALLOWED_HOSTS.append(_config.host)

INSTALLED_APPS = [
    # First, because its templates of allauth's pages stand in for allauth's own.
    "aiia_web",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "csp",
    "django_htmx",
    "drf_spectacular",
    "procrastinate.contrib.django",
    "servestatic",
    "aiia_platform.accounts",
    "aiia_platform.afterwords",
    "aiia_platform.chats",
    "aiia_platform.generations",
    "aiia_platform.options",
    "aiia_platform.usage",
]
MIDDLEWARE = [
    "aiia_platform.observability.middleware.observed",
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "aiia_web.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.debug",
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

_database = urlsplit(_config.database_url)
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(_database.path.lstrip("/")),
        "USER": unquote(_database.username or ""),
        "PASSWORD": unquote(_database.password or ""),
        # A server on a Unix socket is written as `postgresql://user@/name?host=/its/folder`.
        "HOST": _database.hostname or parse_qs(_database.query).get("host", [""])[0],
        "PORT": str(_database.port or ""),
        "CONN_HEALTH_CHECKS": True,
        # A server has many short-lived threads, so connections are pooled; a test or a command wants one of its own.
        "OPTIONS": {"connect_timeout": 5, "pool": {"min_size": 1, "max_size": 16, "timeout": 10}}
        if not {"pytest", "migrate"} & {*Path(sys.argv[0]).parts, *sys.argv[1:2]}
        else {"connect_timeout": 5},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["aiia_platform.accounts.backends.Backend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "aiia_platform.accounts.adapter.AccountAdapter"
ACCOUNT_FORMS = {
    "login": "aiia_platform.accounts.forms.LoginForm",
    "signup": "aiia_platform.accounts.forms.SignupForm",
}
ACCOUNT_LOGIN_METHODS = {"email", "username"}
ACCOUNT_SIGNUP_FIELDS = ["username", "email", "password1*"]
# Looked up whenever allauth asks, since administrators change it while the server runs.
ACCOUNT_EMAIL_VERIFICATION = lazystr(OptionText("email_verification"))
ACCOUNT_CHANGE_EMAIL = True
ACCOUNT_CONFIRM_EMAIL_ON_GET = False
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_EMAIL_NOTIFICATIONS = True
# It wants every way to log in to be a required field; here one of the two is enough, which SignupForm sees to.
SILENCED_SYSTEM_CHECKS = ["account.W001"]
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_RATE_LIMITS = {"signup": _config.signup_rate}
ACCOUNT_SESSION_REMEMBER = True
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_ADAPTER = "aiia_platform.accounts.adapter.MfaAdapter"
MFA_TOTP_ISSUER = "aiia"
MFA_TOTP_TOLERANCE = 1
# A username alone makes an account, so that an address cannot be asked for.
MFA_ALLOW_UNVERIFIED_EMAIL = True
# Browsers themselves allow passkeys on https and on localhost alone.
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = True
SOCIALACCOUNT_ADAPTER = "aiia_platform.accounts.adapter.SocialAccountAdapter"
# A form that posts could not be sent on to another server under our policy, a link can.
SOCIALACCOUNT_LOGIN_ON_GET = True
# The issuer is one that administrators chose. Addresses that it has not confirmed connect nothing.
SOCIALACCOUNT_EMAIL_AUTHENTICATION = True
SOCIALACCOUNT_EMAIL_AUTHENTICATION_AUTO_CONNECT = True
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_REQUESTS_TIMEOUT = 10
EMAIL_BACKEND = "aiia_platform.mail.Backend"

# Rate limits of logins live here; without Redis each web process keeps its own.
CACHES = {
    "default": {"BACKEND": "aiia_platform.cache.ForgivingRedisCache", "LOCATION": _config.redis_url}
    if _config.redis_url
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
}

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "aiia_web.errors.csrf_failure"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = _web / "build" / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "servestatic.storage.CompressedManifestStaticFilesStorage"
    },
}
SERVESTATIC_USE_FINDERS = DEBUG
SERVESTATIC_AUTOREFRESH = DEBUG

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        # First, as it is the one that says how to come in.
        "aiia_platform.api.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["aiia_platform.api.Known"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_THROTTLE_CLASSES": ["aiia_platform.api.Throttle"],
    "DEFAULT_PAGINATION_CLASS": "aiia_platform.api.Pages",
    "DEFAULT_SCHEMA_CLASS": "aiia_platform.schema.Schema",
    "EXCEPTION_HANDLER": "aiia_platform.problems.handle",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "aiia",
    "DESCRIPTION": "Chats, models, accounts and usage. Models themselves answer under /v1, in OpenAI's shape.",
    "VERSION": "1",
    "SCHEMA_PATH_PREFIX": "/api/",
    "SERVE_INCLUDE_SCHEMA": False,
    "SORT_OPERATIONS": True,
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "aiia_platform.schema.complete",
    ],
}

PROCRASTINATE_AUTODISCOVER_MODULE_NAME = "jobs"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "aiia_platform.observability.logs.JsonFormatter"}},
    # That something else is away is no error of ours, however often it is asked; who notices it says so once.
    "filters": {
        "not_unavailable": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", None) != 503,
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["not_unavailable"]}},
    "root": {"handlers": ["stderr"], "level": _config.log_level.upper()},
    "loggers": {
        "procrastinate": {"level": "WARNING"},
        # At its lowest level it writes out what goes into the database.
        "django.db.backends": {"level": "INFO"},
    },
}
