"""Puts the config folders of `qlexp.extensions` on Hydra's search path, after `conf/`."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from qlexp.extensions import NAMED, config_folders


class ExtensionsSearchPath(SearchPathPlugin):
    """Whether they come from the command line, from Python or from installed packages."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in config_folders():
            search_path.append(provider=NAMED, path=f"file://{folder}")
