"""Follow-up of muscles by MRI: scores of fatty infiltration and edema, and how fast they change."""
