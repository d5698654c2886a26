"""The eight emotion labels, in the order of every 8-wide array of this product.

Source: RAVDESS (Livingstone & Russo 2018), whose file names number them 01..08 in this order.
"""

from __future__ import annotations

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
