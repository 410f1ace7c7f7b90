"""How many people one address may register."""

import os
import subprocess
import sys

import pytest

_CODE = """
import django; django.setup()
from allauth.account import app_settings
print(app_settings.RATE_LIMITS["signup"], app_settings.RATE_LIMITS["login"])
"""


@pytest.mark.unit
@pytest.mark.parametrize(("environment", "rate"), [({}, "20/m/ip"), ({"AIIA_SIGNUP_RATE": "90/m/ip"}, "90/m/ip")])
def test_the_rate_of_registrations_is_configurable(environment: dict[str, str], rate: str) -> None:
    own = {
        "DJANGO_SETTINGS_MODULE": "aiia_platform.settings",
        "DATABASE_URL": "postgresql:///",
        "AIIA_SECRET_KEY": "k",
        "AIIA_INTERNAL_TOKEN": "t",
    }
    found = subprocess.run(
        [sys.executable, "-c", _CODE], env=os.environ | own | environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split()[0] == rate
    # The others stay as django-allauth has them.
    assert found.stdout.split()[1]
