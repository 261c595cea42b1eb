"""General views of a study, each `show(study, options) -> Shown` (`analysis.view`)."""
