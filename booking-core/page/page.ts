// stub
import type { Server } from '../../kernel/http.ts';
export const addPage = (_server: Server, _parts: unknown): void => undefined;
