"""The contract's asserts are explained like those of test files."""

import pytest

pytest.register_assert_rewrite("tests.connectors.contract")
