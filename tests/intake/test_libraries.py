import logging
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


def test_nothing_pydicom_logs_reaches_the_handlers_of_a_run(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("pydicom").error("Doe^Jane")
    assert caplog.text == ""
