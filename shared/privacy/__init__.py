"""Privacy: the plan, the mechanisms, the accountants, the record of what was spent."""
