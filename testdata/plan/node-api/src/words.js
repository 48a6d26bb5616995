/** How often each word of a text is in it. */
export function count(text) {
  const counts = {};
  for (const word of text.toLowerCase().match(/\p{L}+/gu) ?? []) {
    counts[word] = (counts[word] ?? 0) + 1;
  }
  return counts;
}
