from django.urls import path

from aiia_platform import health, internal

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("internal/keys/verify", internal.verify_key, name="internal-verify-key"),
    path("internal/usage", internal.report_usage, name="internal-usage"),
]
