"""Environment of the tests. Loaded before pytest-django reads the settings; starts nothing by itself."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from tests.fakes.gateway import free_port

ROOT = Path(tempfile.mkdtemp(prefix="aiia-test-"))
# Postgres runs as a user of its own when the tests run as root.
ROOT.chmod(0o755)
atexit.register(shutil.rmtree, ROOT, ignore_errors=True)

POSTGRES_DATA = ROOT / "pg"


REDIS_PORT = free_port()
#: Where the pages look for the gateway; nobody is there until a test starts something.
GATEWAY_PORT = free_port()
#: The same for the manager.
MANAGER_PORT = free_port()

os.environ.update(
    DATABASE_URL=f"postgresql://postgres@/postgres?host={POSTGRES_DATA}",
    REDIS_URL=f"redis://127.0.0.1:{REDIS_PORT}/0",
    AIIA_SECRET_KEY="only-for-tests",
    AIIA_INTERNAL_TOKEN="internal-token-of-the-tests",
    AIIA_DATA_DIR=str(ROOT / "data"),
    AIIA_GATEWAY_URL=f"http://127.0.0.1:{GATEWAY_PORT}/v1",
    AIIA_MANAGER_URL=f"http://127.0.0.1:{MANAGER_PORT}",
    AIIA_DEBUG="1",
    # What a model is asked after an answer would be among what tests count; those that are about it switch it on.
    AIIA_TITLES="0",
    AIIA_TAGS="0",
    AIIA_FOLLOW_UPS="0",
)
for name in ("AIIA_SECRET_KEY_FILE", "AIIA_INTERNAL_TOKEN_FILE", "OPENAI_BASE_URL"):
    os.environ.pop(name, None)
