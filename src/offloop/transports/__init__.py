"""How envelopes and reports travel: one file a transport, both of its ends side by side. No policy."""
