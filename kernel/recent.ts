// A Map that forgets: what was set lately is there, the rest may be gone. Two generations of `max` entries; writes go
// to the young one, and when it is full the old one is dropped. So it is bounded, forgets what nobody asked for first,
// and keeps no list of uses.

export type Recent<K, V> = {
  get(key: K): V | undefined;
  set(key: K, value: V): V;
  clear(): void;
  /** Entries in memory, for tests. */
  readonly size: number;
};

export const createRecent = <K, V>(max: number): Recent<K, V> => {
  let young = new Map<K, V>();
  let old = new Map<K, V>();
  const set = (key: K, value: V): V => {
    if (young.size >= max && !young.has(key)) {
      old = young;
      young = new Map();
    }
    young.set(key, value);
    return value;
  };
  return {
    get(key) {
      const recent = young.get(key);
      if (recent !== undefined) return recent;
      const found = old.get(key);
      // Whatever is asked for again outlives the old generation.
      return found === undefined ? undefined : set(key, found);
    },
    set,
    clear() {
      young = new Map();
      old = new Map();
    },
    get size() {
      return young.size + old.size;
    },
  };
};
