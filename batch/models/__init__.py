"""Models: bundles, their registry, and the trust that loading one needs."""
