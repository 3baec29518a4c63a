"""Cohorts: the outcome of every patient by rule, groups compared, logistic regression."""
