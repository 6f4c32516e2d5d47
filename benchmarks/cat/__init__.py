"""CAT against every fixed number of entries: what it costs to come close to the optimum of logistic regression."""
