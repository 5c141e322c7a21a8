"""Fault points do what CXRBATCH_FAULT says, when it says so, and otherwise nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cxrbatch.system import faults
from cxrbatch.system.faults import arm, reach, read_fault


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm(None)


@pytest.mark.parametrize(("name", "number"), [("enospc", errno.ENOSPC), ("edquot", errno.EDQUOT), ("eio", errno.EIO)])
def test_a_disk_fails_at_its_point_the_nth_time_and_only_then(name: str, number: int) -> None:
    arm(read_fault(f"here:2={name}"))
    reach("here")
    reach("elsewhere")
    with pytest.raises(OSError, match=os.strerror(number)) as failed:
        reach("here")
    assert failed.value.errno == number
    reach("here")


def test_without_the_variable_nothing_is_armed() -> None:
    assert faults._at_point is None


@pytest.mark.parametrize(("fault", "number"), [("kill", signal.SIGKILL), ("term", signal.SIGTERM)])
def test_the_variable_kills_the_process_that_has_it(fault: str, number: int) -> None:
    program = "from cxrbatch.system.faults import reach; reach('there'); print('so far', flush=True); reach('here')"
    environment = os.environ | {"CXRBATCH_FAULT": f"here={fault}"}
    child = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=False)
    assert (child.returncode, child.stdout) == (-number, b"so far\n")


@pytest.mark.parametrize("order", ["here", "here=sleep", "here:0=kill", "Here=kill", "=kill"])
def test_what_is_no_fault_is_refused(order: str) -> None:
    with pytest.raises(ValueError, match="CXRBATCH_FAULT"):
        read_fault(order)
