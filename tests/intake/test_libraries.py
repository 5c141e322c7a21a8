import subprocess
import sys
import threading
import warnings

import pytest

from cxrbatch.intake.libraries import silent_libraries


def test_warnings_inside_are_ignored_and_outside_are_not() -> None:
    with silent_libraries():
        warnings.warn("Invalid value 'Doe^Jane'", stacklevel=1)
    with pytest.warns(UserWarning, match="outside"):
        warnings.warn("outside", stacklevel=1)


def test_overlapping_threads_leave_the_filters_as_they_were() -> None:
    before = list(warnings.filters)
    first_is_in, first_may_leave = threading.Event(), threading.Event()

    def first() -> None:
        with silent_libraries():
            first_is_in.set()
            first_may_leave.wait(5)

    thread = threading.Thread(target=first)
    thread.start()
    first_is_in.wait(5)
    with silent_libraries():
        first_may_leave.set()
        thread.join()
        warnings.warn("still silent", stacklevel=1)
    assert list(warnings.filters) == before


@pytest.mark.parametrize("first", ["cxrbatch.intake.libraries, pydicom", "pydicom, cxrbatch.intake.libraries"])
def test_nothing_pydicom_logs_reaches_the_handlers_of_a_run(first: str) -> None:
    program = (
        f"import logging, {first}, pydicom.config\n"
        "logging.basicConfig(level=0)\n"
        "for name in ('pydicom', 'pydicom.filereader'): logging.getLogger(name).error('Doe^Jane')\n"
        "logging.getLogger('cxrbatch').error('heard')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout + ended.stderr == "ERROR:cxrbatch:heard\n"
