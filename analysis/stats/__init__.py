"""Statistics of a study: pure functions from the long table to long tables with named columns."""
