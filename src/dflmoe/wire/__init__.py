"""Heads to bytes and back: safetensors, checked before they are believed; pure."""
