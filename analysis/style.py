from analysis.render.style import *  # noqa: F403  (until every view is converted)
