"""Planning of a study from a pilot run: how many fields and patients, and what the fields' error hides."""
