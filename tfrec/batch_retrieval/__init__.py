"""Recommendations for all customers: a dataset read a part at a time, through an exported model, into files."""
