"""How Hypothesis runs here. The profile `mutants` only says whether something fails, and says the same each time."""

from hypothesis import Phase, settings

settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None)
