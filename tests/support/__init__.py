"""Helpers of the tests: files, slides, stores, servers and browsers that several tests use."""
