// What the waiting page says in each state, written once for the server and the browser. Pure, and plain JavaScript
// because it runs in both.

const MINUTE = 60;
const HOUR = 3600;

export const countInWords = (count) => Math.round(count).toLocaleString('en');

const several = (count, word) => `${countInWords(count)} ${word}${count === 1 ? '' : 's'}`;

/** An honest range, such as "about 4–7 minutes"; never more exact than it can be. */
export const etaInWords = (range) => {
  if (!range) return 'working it out';
  const [p50, p90] = range;
  if (p90 <= MINUTE) return 'less than a minute';
  if (p50 > 24 * HOUR) return 'more than a day';
  const wide = p50 >= 1.5 * HOUR;
  const unit = wide ? HOUR : MINUTE;
  const low = Math.max(1, Math.round(p50 / unit));
  const high = Math.max(low, Math.ceil(p90 / unit));
  const word = wide ? 'hour' : 'minute';
  return low === high ? `about ${several(low, word)}` : `about ${low}–${high} ${word}s`;
};

/** Time left: 0:45, 12:07, 3:02:10, or 2 days and more in words. */
export const clockInWords = (leftMs) => {
  const seconds = Math.max(0, Math.ceil(leftMs / 1000));
  if (seconds >= 48 * HOUR) return several(Math.floor(seconds / (24 * HOUR)), 'day');
  const two = (number) => String(number).padStart(2, '0');
  const minutes = Math.floor(seconds / MINUTE);
  return seconds < HOUR
    ? `${minutes}:${two(seconds % MINUTE)}`
    : `${Math.floor(seconds / HOUR)}:${two(minutes % 60)}:${two(seconds % MINUTE)}`;
};

/** Reasons that come as a word; anything else is already a sentence. */
const REASONS = {
  restored: 'The line was restored after a fault. This is your place as it stands now.',
  released: 'Thank you for waiting while we checked. You are back in your place.',
  draw: 'The draw has taken place. This is your place in line.',
};
export const reasonInWords = (reason) => REASONS[reason] ?? (/\s/.test(reason ?? '') ? reason : '');

const GLYPHS = {
  door: 'M6 20V5a1 1 0 0 1 1-1h10a1 1 0 0 1 1 1v15M3 20h18M14 12v.5',
  clock: 'M12 7v5l3 2M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  shield: 'M12 3l7 3v5c0 4.6-3 8.3-7 10-4-1.7-7-5.4-7-10V6z',
};

const WITHHELD = {
  challenge: [
    'We need a closer look',
    'Something about this visit looks automated, so it is paused while we check. Your place in line is kept.',
  ],
  tarpit: ['We are checking this visit', 'This can take a while. Your place in line is kept meanwhile.'],
  block: [
    'We could not let this visit in',
    'It looked like automated traffic. We may be wrong: such checks make mistakes.',
  ],
};

const JOIN_AGAIN = { act: 'join', label: 'Join the line again' };

/** The words of a state: [tone, glyph, headline, lead, more]. */
const wordsOf = (view) => {
  switch (view.state) {
    case 'new':
      return view.busy
        ? ['calm', 'door', 'Joining the line', 'Taking a place for you. This only takes a moment.']
        : [
            'calm',
            'door',
            'Join the line',
            'Many people want in right now. Take a place, and we let you in when it is your turn.',
            { button: { act: 'join', label: 'Join the line' } },
          ];
    case 'waiting':
    case 'parked': {
      if (view.state === 'parked' && view.missed)
        return [
          'warn',
          'clock',
          'You missed your turn',
          'The time to enter ran out, but your place is kept. Come back now, and you go in with the next.',
          { button: { act: 'join', label: 'Return to the line' }, leave: true },
        ];
      if (view.opensAtMs > view.nowMs)
        return [
          'calm',
          'clock',
          'You are in. We open soon',
          'You have a place. When the sale opens, we show where you stand.',
          {
            big: clockInWords(view.opensAtMs - view.nowMs),
            caption: 'until the sale opens',
            placed: true,
            leave: true,
          },
        ];
      const place = { placed: true, leave: true };
      if (view.position !== undefined) {
        place.big = countInWords(view.position);
        place.caption = 'your position in line';
        place.ahead = countInWords(view.position - 1);
        place.eta = view.suspended ? 'paused' : etaInWords(view.etaSeconds);
        place.progress = view.progress ?? 0;
      }
      const drawn = view.order ? `The order is drawn by lot among ${several(view.waiting, 'visitor')}. ` : '';
      const headline = view.suspended
        ? 'The line is paused'
        : view.position === 1
          ? 'You are next'
          : view.position <= 10
            ? 'Almost there'
            : 'You are in line';
      const lead = view.suspended
        ? 'Everyone keeps their place. It goes on by itself in a while.'
        : `${drawn}Keep this page open. When it is your turn, it takes you in by itself.`;
      return ['calm', 'clock', headline, lead, place];
    }
    case 'withheld': {
      const [headline, lead] = WITHHELD[view.verdict] ?? WITHHELD.tarpit;
      return [view.verdict === 'block' ? 'bad' : 'warn', 'shield', headline, lead, { appeal: true }];
    }
    case 'promoted':
      return view.busy
        ? ['good', 'check', 'Taking you in', 'One moment, the door is opening.']
        : [
            'good',
            'check',
            'It is your turn',
            'Enter before the time runs out. Then your place is for someone else.',
            {
              big: view.claimDeadlineMs && clockInWords(view.claimDeadlineMs - view.nowMs),
              caption: 'left to enter',
              button: { act: 'enter', label: 'Enter now' },
              leave: true,
            },
          ];
    case 'active':
      return [
        'good',
        'check',
        'You are in',
        'Your visit has begun. Go on here: it is open in one browser at a time.',
        { button: { act: 'enter', label: 'Continue' } },
      ];
    case 'finished':
      return view.left
        ? [
            'calm',
            'door',
            'You have left the line',
            'Your place was given up, as you asked.',
            { button: JOIN_AGAIN },
          ]
        : [
            'calm',
            'check',
            'Your visit has ended',
            'Thank you for coming. To visit again, take a new place in line.',
            { button: JOIN_AGAIN },
          ];
    case 'closed':
      return ['calm', 'door', 'This sale has closed', 'Nobody can join the line any more.'];
    case 'notOpen':
      return [
        'calm',
        'clock',
        'Not open yet',
        view.opensAtMs > view.nowMs
          ? 'Keep this page open, and it joins the line for you when the time comes.'
          : 'Opening any moment now. This page joins the line for you.',
        view.opensAtMs > view.nowMs
          ? { big: clockInWords(view.opensAtMs - view.nowMs), caption: 'until the sale opens' }
          : {},
      ];
    case 'recovering':
      return [
        'warn',
        'shield',
        'Your place is safe',
        'We are putting the line back in order after a fault. This takes about a minute.',
        { placed: view.number !== undefined },
      ];
    default:
      return [
        'warn',
        'shield',
        view.number === undefined ? 'One moment, please' : 'Your place is safe',
        'The line cannot be reached right now. We keep trying, and you need not do anything.',
        { placed: view.number !== undefined },
      ];
  }
};

/**
 * Everything a page shows: `tone`, `glyph`, `headline`, `lead`, and where the state has them `big` with `caption`,
 * `ahead`, `eta`, `progress`, `number`, `safe`, `button`, `leave`, `appeal`; `docTitle` for the tab.
 */
export const describe = (view) => {
  const [tone, glyph, headline, lead, more = {}] = wordsOf(view);
  const number = more.placed && view.number !== undefined ? countInWords(view.number) : undefined;
  const reason = reasonInWords(view.reason);
  return {
    ...more,
    tone,
    glyph: GLYPHS[glyph],
    headline,
    lead: reason === '' ? lead : `${reason} ${lead}`,
    number,
    safe:
      number &&
      `Your place is safe if you close this tab. Come back on this device any time: number ${number}.`,
    docTitle: [more.ahead && more.big, headline, view.title].filter(Boolean).join(' · '),
  };
};
