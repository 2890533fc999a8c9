"""Sparse differential equations of coefficients: features, weak form, regression, integration."""
