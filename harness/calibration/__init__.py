"""Recorded comparisons replayed through a judge: does it agree with people, and with the judge it replaces?"""
