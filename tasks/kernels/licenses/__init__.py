"""Licences: those that texts state and expressions name, and the policy that permits them."""
