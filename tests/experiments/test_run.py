"""run.py: what it records, and that nothing is lost or done twice, whoever is killed."""
