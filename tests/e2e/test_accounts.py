"""Coming in by every way, and the pages of an account."""

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import PASSWORD, PHONE, register
from tests.e2e.site import Site
from tests.support.plugin import ROOT

pytestmark = pytest.mark.e2e
Open = Callable[..., Page]


def last_mail(to: str) -> str:
    """The newest mail to an address, which the server wrote into a file."""
    files = sorted((ROOT / "data/mail").iterdir(), key=lambda file: file.stat().st_mtime_ns)  # names tell seconds only
    found = [text for file in files if f"To: {to}" in (text := file.read_text())]
    return found[-1]


def link(mail: str) -> str:
    found = re.search(r"https?://\S+", mail)
    assert found
    return found[0]


def test_an_address_is_confirmed_and_a_password_forgotten_without_scripts(open_page: Open) -> None:
    page = open_page(**PHONE, java_script_enabled=False)
    page.goto("/accounts/signup/")
    page.fill("[name=username]", "grace")
    page.fill("[name=email]", "grace@example.org")
    page.fill("[name=password1]", PASSWORD)
    page.click("main button[type=submit]")
    page.goto(link(last_mail("grace@example.org")))
    page.click("button:has-text('Confirm')")
    page.goto("/accounts/logout/")
    page.click("main button:has-text('Log out')")
    page.goto("/accounts/login/")
    page.click("text=Forgotten password")
    page.fill("[name=email]", "grace@example.org")
    page.click("text=Send the link")
    expect(page.locator("h1")).to_have_text("Look into your mail")
    page.goto(link(last_mail("grace@example.org")))
    page.fill("[name=password1]", "another horse battery")
    page.fill("[name=password2]", "another horse battery")
    page.click("text=Set password")
    page.goto("/accounts/login/")
    page.fill("[name=login]", "grace@example.org")
    page.fill("[name=password]", "another horse battery")
    page.keyboard.press("Enter")
    expect(page.locator("#composer")).to_be_visible()


def totp(secret: str) -> str:
    """What an authenticator app shows, from a process that may load the server's code."""
    code = (
        "import django, sys; django.setup();"
        "from allauth.mfa.totp.internal.auth import *;"
        "print(format_hotp_value(hotp_value(sys.argv[1], next(iter(yield_hotp_counters_from_time())))))"
    )
    command = [sys.executable, "-c", code, secret]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def confirm_password(page: Page) -> None:
    page.fill("[name=password]", PASSWORD)
    page.click("text=Go on")


def log_out(page: Page) -> None:
    page.goto("/accounts/logout/")
    page.click("main button:has-text('Log out')")
    page.wait_for_url("**/accounts/login/**")


def test_an_authenticator_app_guards_the_login(open_page: Open) -> None:
    page = open_page()
    name = register(page)
    page.goto("/settings/")
    page.click("text=Second factors and passkeys")
    page.click("a:has-text('Set up')")
    confirm_password(page)
    secret = page.locator("#totp-secret").inner_text()
    expect(page.get_by_alt_text("QR code of the secret")).to_be_visible()
    page.fill("[name=code]", totp(secret))
    page.click("text=Activate")
    recovery = page.locator("#text-codes").inner_text().split()
    assert len(recovery) == 10
    log_out(page)
    page.fill("[name=login]", name)
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Second factor")
    page.fill("[name=code]", recovery[0])
    page.keyboard.press("Enter")
    expect(page.locator("#composer")).to_be_visible()


def test_a_passkey_logs_in_by_itself(site: Site, open_page: Open) -> None:
    # A passkey belongs to a name, and 127.0.0.1 is none.
    page = open_page(base_url=site.url.replace("127.0.0.1", "localhost"))
    browser = page.context.new_cdp_session(page)
    browser.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    browser.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    register(page)
    page.goto("/accounts/2fa/")
    page.click("a:has-text('Add')")
    confirm_password(page)
    page.check("[name=passwordless]")
    page.click("button:has-text('Add')")
    page.locator("#text-codes").wait_for()
    page.goto("/accounts/2fa/")
    expect(page.locator("main")).to_contain_text("1 added")
    log_out(page)
    page.click("text=Log in with a passkey")
    expect(page.locator("#composer")).to_be_visible()


def test_settings_of_the_installation_hold_at_once(site: Site, open_page: Open) -> None:
    site.run("create_user", "--email", "root@example.org", "--password-stdin", "--admin", stdin=PASSWORD + "\n")
    page = open_page()
    page.goto("/accounts/login/?next=/admin/settings/")
    page.fill("[name=login]", "root@example.org")
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    try:
        page.select_option("[name=signup]", "closed")
        page.click("button:has-text('Save')")
        expect(page.locator("#toasts")).to_contain_text("Saved")
        expect(page.locator("#option-signup")).to_contain_text(re.compile(r"This page\s+Closed\s+in effect"))
        stranger = open_page()
        stranger.goto("/accounts/signup/")
        expect(stranger.locator("h1")).to_have_text("Registration is closed")
    finally:
        page.goto("/admin/settings/")
        page.select_option("[name=signup]", "open")
        page.click("button:has-text('Save')")
        page.locator("#toasts >> text=Saved").wait_for()
    stranger.goto("/accounts/signup/")
    expect(stranger.locator("h1")).to_have_text("Register")
