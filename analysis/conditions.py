"""Moved to `analysis.settings`."""

from analysis.settings import condition_of as condition_of
from analysis.settings import conditions as conditions
from analysis.settings import is_shared as is_shared
from analysis.settings import require_one as require_one
