"""Moved to `analysis.settings`."""

from analysis.settings import joined as joined
from analysis.settings import order as order
from analysis.settings import settings_of as settings_of
from analysis.settings import swept as swept
from analysis.settings import with_settings as with_settings
