"""From scored completions to pairs: grades, rules, balance, and the other data sets of the same candidates."""
