"""Stands in for the haproxy program, to close what Ray Serve's configuration leaves open to the network.

Its statistics and metrics listen on every address without a password, and Serve has no setting for that. This script
moves them to loopback in the configuration file and becomes the real haproxy. It also ties haproxy's life to its
parent's, so that none is left behind when Ray is killed.
"""

import ctypes
import os
import re
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    program, arguments = sys.argv[1], sys.argv[2:]
    if "-f" in arguments:
        path = arguments[arguments.index("-f") + 1]
        with open(path) as file:
            configuration = file.read()
        closed = re.sub(r"^(\s*bind )\*?:", r"\g<1>127.0.0.1:", configuration, flags=re.MULTILINE)
        with open(path, "w") as file:
            file.write(closed)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(program, [program, *arguments])  # noqa: S606


if __name__ == "__main__":
    main()
