"""Measurements that print JSON: figures with the machine and revision they belong to."""
