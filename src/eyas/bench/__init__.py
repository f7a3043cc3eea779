"""Measures: question files, answers compared with plain decoding's, and summaries with their provenance."""
