"""Verification of what a run left: each output against its receipt, its readers, its source. Changes nothing."""
