// JSON in one form only: names sorted at every depth, no blanks, members that are undefined left out. What is
// hashed or compared is written in it, because neither jsonb nor another reader keeps the order of names.

export const canonical = (value: unknown): string => {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const parts = Object.entries(value)
      .filter(([, member]) => member !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, member]) => `${JSON.stringify(name)}:${canonical(member)}`);
    return `{${parts.join(',')}}`;
  }
  return JSON.stringify(value);
};
