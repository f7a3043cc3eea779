"""Reports that hold the results of `eyas bench run` against the papers' claims."""
