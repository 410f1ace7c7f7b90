"""What the first pages cost a browser that has never been here."""

import pytest
from playwright.sync_api import Browser

from loadtests.first_page import costs, is_cheap
from tests.e2e.site import Site

pytestmark = pytest.mark.e2e


def test_the_first_pages_keep_to_their_budget(browser: Browser, site: Site) -> None:
    found = costs(browser, site.url)
    # The page, its stylesheet and its script are the least that there is.
    assert all(cost.requests >= 3 and cost.bytes > 10_000 for cost in found)
    assert [cost for cost in found if not is_cheap(cost)] == []
