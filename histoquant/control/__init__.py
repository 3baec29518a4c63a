"""Control of a laboratory's slides: a verdict per slide, a history, charts and their rules."""
