// Waits for a condition instead of for a time. The deadline is generous; a test that needs it has failed.

/** Between two looks. Nothing depends on it: a condition that may pass between two looks is none to wait for. */
const LOOK_EVERY_MS = 10;

/**
 * Repeats `check` until it answers true (a throw counts as false); fails after `deadlineMs` with the last cause, also
 * where a check has never answered. The last look is taken after the deadline, so that a machine that stood still
 * until then is not taken for a condition that did not come true.
 */
export const eventually = async (
  what: string,
  check: () => boolean | Promise<boolean>,
  deadlineMs = 60_000,
): Promise<void> => {
  const until = performance.now() + deadlineMs;
  let cause: unknown;
  let timer: NodeJS.Timeout | undefined;
  // Later than the deadline: it ends what hangs for good, and no check that is merely slow.
  const hung = new Promise<'hung'>((resolve) => {
    timer = setTimeout(() => resolve('hung'), 2 * deadlineMs);
  });
  try {
    for (;;) {
      const isLast = performance.now() > until;
      let found: boolean | 'hung' = false;
      try {
        found = await Promise.race([check(), hung]);
      } catch (error) {
        cause = error;
      }
      if (found === true) return;
      if (found === 'hung')
        throw new Error(`no look has ended within ${2 * deadlineMs} ms: ${what}`, { cause });
      if (isLast) throw new Error(`not within ${deadlineMs} ms: ${what}`, { cause });
      await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
    }
  } finally {
    clearTimeout(timer);
  }
};
