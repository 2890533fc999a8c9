/* How levels of coordinates are laid out for products with directions: (panels, pairs, PANEL, 2),
 * where panels are of tokens and pairs of directions. */
#ifndef ROMZARR_PANELS_H
#define ROMZARR_PANELS_H

/* Tokens whose sums are in registers: as many as a block of a cache has at least. */
#define PANEL 8

#endif
