"""How envelopes and reports travel: a file or a folder for each transport, its two ends side by side. No policy.

What several of them share lies beside them: `brokered`, `parcels`, `delivery`, `credit`, `handoff`, `backoff`.
"""
