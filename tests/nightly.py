"""Cases by the dozen: a few in the ordinary suite, all of them in `make nightly`."""

import pytest


def a_few(cases, every):
    """The cases for ``parametrize``: one in ``every`` as it is, the others marked as slow."""
    parameters = []
    for index, case in enumerate(cases):
        values = case if isinstance(case, tuple) else (case,)
        marks = [pytest.mark.slow] if index % every else []
        parameters.append(pytest.param(*values, marks=marks))
    return parameters
