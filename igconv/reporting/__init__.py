"""Rows and analyses -> what a person reads: tables, figures, claims with verdicts, one page.

Takes the CSV files of a profile and trains or measures nothing. Read `catalogue` first: it names every table and
every figure.
"""
