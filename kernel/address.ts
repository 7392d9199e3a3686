// Internet addresses: reading, writing in one normal form, prefixes, and whose word about the fan's address is
// taken. An address is 16 bytes inside, IPv4 as IPv4-mapped IPv6, so that both have one comparison and one text.

import { isIP } from 'node:net';
import { createRecent } from './recent.ts';

/** How far back X-Forwarded-For is followed; no chain of our own proxies is longer. */
const HOPS_MAX = 16;

/** 16 bytes for 4 or 16. */
const mapped = (bytes: Uint8Array): Uint8Array =>
  bytes.length === 16 ? bytes : Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ...bytes);

const isMapped = (bytes: Uint8Array): boolean => {
  for (let index = 0; index < 10; index += 1) if (bytes[index] !== 0) return false;
  return bytes[10] === 0xff && bytes[11] === 0xff;
};

/** The text of 4 or 16 bytes: dotted for IPv4 (mapped or not), else RFC 5952. Empty for any other length. */
export const addressText = (bytes: Uint8Array): string => {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`;
  if (bytes.length !== 16) return '';
  if (isMapped(bytes)) return `${bytes[12]}.${bytes[13]}.${bytes[14]}.${bytes[15]}`;
  const groups: number[] = [];
  for (let index = 0; index < 16; index += 2) groups.push((bytes[index]! << 8) | bytes[index + 1]!);
  // RFC 5952 section 4.2: `::` takes the first longest run of at least two zero groups.
  let from = -1;
  let longest = 1;
  for (let start = 0; start < 8; start += 1) {
    let end = start;
    while (end < 8 && groups[end] === 0) end += 1;
    if (end - start > longest) {
      longest = end - start;
      from = start;
    }
  }
  const hex = (some: number[]) => some.map((group) => group.toString(16)).join(':');
  return from < 0 ? hex(groups) : `${hex(groups.slice(0, from))}::${hex(groups.slice(from + longest))}`;
};

/** 16 bytes of an address in text; undefined for anything else, a zone id included. */
export const parseAddress = (text: string): Uint8Array | undefined => {
  const bytes = new Uint8Array(16);
  const kind = text.length > 45 || text.includes('%') ? 0 : isIP(text);
  if (kind === 0) return undefined;
  const setV4 = (dotted: string) => {
    for (const [index, part] of dotted.split('.').entries()) bytes[12 + index] = Number(part);
  };
  if (kind === 4) {
    bytes.fill(0xff, 10, 12);
    setV4(text);
    return bytes;
  }
  let groupsText = text;
  const dotted = /[0-9.]+\.[0-9.]+$/.exec(text)?.[0];
  if (dotted !== undefined) {
    groupsText = `${text.slice(0, -dotted.length)}0:0`;
    setV4(dotted);
  }
  const [left = '', right] = groupsText.split('::');
  const groupsOf = (part: string) => (part === '' ? [] : part.split(':'));
  const place = (groups: string[], at: number) => {
    for (const [index, group] of groups.entries()) {
      const offset = (at + index) * 2;
      if (dotted !== undefined && offset >= 12) return;
      const value = Number.parseInt(group, 16);
      bytes[offset] = value >> 8;
      bytes[offset + 1] = value & 0xff;
    }
  };
  place(groupsOf(left), 0);
  if (right !== undefined) {
    const groups = groupsOf(right);
    place(groups, 8 - groups.length);
  }
  return bytes;
};

/** The network an address belongs to, as `address/bits`; IPv4 counts its own 32 bits. For limits by /64, /56, /48. */
export const addressPrefix = (text: string, bits: { v4: number; v6: number }): string => {
  // The two that every request asks for, without taking the text apart.
  const dotted = (bits.v4 === 32 || bits.v4 === 24) && !text.includes(':') && isIP(text) === 4;
  if (dotted) return bits.v4 === 32 ? `${text}/32` : `${text.slice(0, text.lastIndexOf('.'))}.0/24`;
  const bytes = parseAddress(text);
  if (bytes === undefined) return text;
  const own = isMapped(bytes) ? bits.v4 : bits.v6;
  const kept = isMapped(bytes) ? 96 + own : own;
  for (let index = 0; index < 16; index += 1) {
    const free = Math.min(8, Math.max(0, (index + 1) * 8 - kept));
    bytes[index] = bytes[index]! & (0xff << free);
  }
  return `${addressText(bytes)}/${own}`;
};

type Network = { bytes: Uint8Array; bits: number; isV4: boolean };

const parseNetwork = (text: string): Network | undefined => {
  const [address = '', bitsText, more] = text.split('/');
  const bytes = parseAddress(address);
  if (bytes === undefined || more !== undefined) return undefined;
  const width = address.includes(':') ? 128 : 32;
  if (bitsText !== undefined && (!/^\d{1,3}$/.test(bitsText) || Number(bitsText) > width)) return undefined;
  const bits = bitsText === undefined ? 128 : 128 - width + Number(bitsText);
  // `::/0` means all of IPv6. Mapped IPv4 stands inside it by its bytes, and must not be let in by it.
  return { bytes, bits, isV4: isMapped(bytes) && bits >= 96 };
};

const isInside = (bytes: Uint8Array, network: Network): boolean => {
  if (isMapped(bytes) !== network.isV4) return false;
  const whole = network.bits >> 3;
  for (let index = 0; index < whole; index += 1) if (bytes[index] !== network.bytes[index]) return false;
  const free = 8 - (network.bits & 7);
  return free === 8 || bytes[whole]! >> free === network.bytes[whole]! >> free;
};

const networksOf = (texts: readonly string[]): Network[] =>
  texts.map((text) => {
    const network = parseNetwork(text);
    if (network === undefined) throw new Error(`'${text}' is neither an address nor a prefix`);
    return network;
  });

/** Whether an address, given as text, lies in one of them. */
export type Networks = (address: string) => boolean;

/** Addresses and prefixes, IPv4 and IPv6. Throws when one is neither. */
export const createNetworks = (texts: readonly string[]): Networks => {
  const networks = networksOf(texts);
  return (address) => {
    const bytes = parseAddress(address);
    return bytes !== undefined && networks.some((network) => isInside(bytes, network));
  };
};

/**
 * Headers in which proxies of others name the fan's address. Ours names it in X-Forwarded-For alone, and an origin that
 * believes another would believe whatever a stranger wrote, so these never reach it.
 */
export const claimedAddressHeaders: ReadonlySet<string> = new Set([
  'forwarded',
  'x-forwarded-for',
  'x-forwarded',
  'forwarded-for',
  'x-real-ip',
  'x-client-ip',
  'x-cluster-client-ip',
  'x-original-forwarded-for',
  'x-originating-ip',
  'x-remote-ip',
  'x-remote-addr',
  'x-true-client-ip',
  'true-client-ip',
  'client-ip',
  'cf-connecting-ip',
  'cf-connecting-ipv6',
  'cf-pseudo-ipv4',
  'fastly-client-ip',
  'fly-client-ip',
  'x-azure-clientip',
  'x-azure-socketip',
  'x-appengine-user-ip',
  'x-envoy-external-address',
  'x-nf-client-connection-ip',
  'x-vercel-forwarded-for',
  'cloudfront-viewer-address',
  'incap-client-ip',
  'wl-proxy-client-ip',
  'proxy-client-ip',
]);

/** An entry as proxies write it: an address, or one with a port (`192.0.2.1:80`, `[2001:db8::1]:80`). */
const parseHop = (entry: string): Uint8Array | undefined => {
  const text = entry.trim();
  if (!text.includes(':')) return parseAddress(text);
  const bracketed = /^\[([^\]]*)\](?::\d{1,5})?$/.exec(text);
  if (bracketed !== null) return parseAddress(bracketed[1]!);
  return parseAddress(/^[0-9.]+:\d{1,5}$/.test(text) ? text.slice(0, text.indexOf(':')) : text);
};

/** A socket's other end. */
type Peer = { text: string; isTrusted: boolean };
/**
 * Peers and lists of hops that are remembered, so that a page's hundred requests are not read a hundred times. Not more:
 * of those who wait on a stream each has an address, and asks once.
 */
const PEERS_MAX = 500;
const FORWARDED_MAX = 500;
const FORWARDED_CHARS_MAX = 100;
const keyOfV4 = (bytes: Uint8Array): number =>
  ((bytes[0]! << 24) | (bytes[1]! << 16) | (bytes[2]! << 8) | bytes[3]!) >>> 0;

/**
 * Who sent a request. X-Forwarded-For is read only when the peer is a trusted proxy, and from the right: each
 * trusted proxy vouches for the entry it wrote, so the first untrusted one is the fan. What stands left of it was
 * written by strangers. At a garbled entry the answer is the proxy that passed it on.
 */
export const createTrust = (trustedProxies: readonly string[]) => {
  const networks = networksOf(trustedProxies);
  const isTrusted = (bytes: Uint8Array) => networks.some((network) => isInside(bytes, network));
  const peers = createRecent<number, Peer>(PEERS_MAX);
  // What a list of hops says depends on the list alone, but for one that ends in nothing: that is the proxy itself.
  const forwarded = createRecent<string, string>(FORWARDED_MAX);

  const peerOf = (bytes: Uint8Array): Peer => {
    const key = bytes.length === 4 ? keyOfV4(bytes) : undefined;
    const known = key === undefined ? undefined : peers.get(key);
    if (known !== undefined) return known;
    const text = addressText(bytes);
    const peer = { text, isTrusted: networks.length > 0 && text !== '' && isTrusted(mapped(bytes)) };
    return key === undefined ? peer : peers.set(key, peer);
  };
  /** Empty when no hop can be read: then nobody has said anything. */
  const followed = (header: string): string => {
    const hops = header.split(',');
    let current: Uint8Array | undefined;
    for (let index = hops.length - 1; index >= Math.max(0, hops.length - HOPS_MAX); index -= 1) {
      const hop = parseHop(hops[index]!);
      if (hop === undefined) break;
      current = hop;
      if (!isTrusted(hop)) break;
    }
    return current === undefined ? '' : addressText(current);
  };

  return {
    addressOf(bytes: Uint8Array, forwardedFor: () => string | undefined): string {
      const peer = peerOf(bytes);
      const header = peer.isTrusted ? forwardedFor() : undefined;
      if (header === undefined) return peer.text;
      const known = header.length > FORWARDED_CHARS_MAX ? undefined : forwarded.get(header);
      if (known !== undefined) return known || peer.text;
      const found = followed(header);
      if (header.length <= FORWARDED_CHARS_MAX) forwarded.set(header, found);
      return found || peer.text;
    },
    isProxy: (bytes: Uint8Array): boolean => peerOf(bytes).isTrusted,
  };
};
