"""Tiers of the index: what of it people may see who must not see everything.

`rules` says what becomes of each column, `transform` does it, `build` keeps a folder of files and an `index.duckdb` for
each tier, `views` is what analysts see there. Nothing crosses into a tier without a rule.
"""
