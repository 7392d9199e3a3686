// Waits for a condition instead of for a time. The deadline is generous; a test that needs it has failed.

/**
 * Between two looks, at first and at most. Nothing depends on them: a condition that may pass between two looks is none
 * to wait for. What takes long is looked at less often, or the looks themselves would keep the machine busy.
 */
const LOOK_AFTER_MS = 10;
const LOOK_AFTER_MS_MAX = 100;

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
    for (let pauseMs = LOOK_AFTER_MS; ; pauseMs = Math.min(LOOK_AFTER_MS_MAX, pauseMs * 1.1)) {
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
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  } finally {
    clearTimeout(timer);
  }
};
