// Waits for a condition instead of for a time. The deadline is generous; a test that needs it has failed.

/** Repeats `check` until it answers true (a throw counts as false); fails after `deadlineMs` with the last cause. */
export const eventually = async (
  what: string,
  check: () => boolean | Promise<boolean>,
  deadlineMs = 30_000,
): Promise<void> => {
  const until = performance.now() + deadlineMs;
  let cause: unknown;
  for (;;) {
    try {
      if (await check()) return;
    } catch (error) {
      cause = error;
    }
    if (performance.now() > until) throw new Error(`not within ${deadlineMs} ms: ${what}`, { cause });
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};
