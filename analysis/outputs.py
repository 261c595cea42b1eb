from analysis.render.output import *  # noqa: F403  (until every view is converted)
