/* A training step of the notebook's MLP with the matrix products of a BLAS that the caller hands in:
   embedding, linear, batch norm, tanh, linear, cross-entropy; loss, every gradient, SGD.

   Sizes: B batch, T characters of context, E numbers for each, K = T E, H hidden units, V characters.
   All matrices are row-major, weights (fan_in, fan_out). */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };

typedef void (*gemm)(int order, int ta, int tb, BLAS_INT m, BLAS_INT n, BLAS_INT k, float alpha,
                     const float *a, BLAS_INT lda, const float *b, BLAS_INT ldb, float beta,
                     float *c, BLAS_INT ldc);

typedef struct {
    gemm multiply;
    int64_t B, T, E, H, V, N;
    const int64_t *x, *y;                       /* the examples: (N, T) and (N,) */
    float *table, *w1, *gain, *bias, *w2, *b2;  /* the parameters */
    float *dtable, *dw1, *dgain, *dbias, *dw2, *db2;
    float *flat, *raw, *h, *logits, *dh, *dflat;  /* (B, K), (B, H), (B, H), (B, V), (B, H), (B, K) */
    float *inv, *mean;                            /* (H,) each */
    uint64_t random;
} net;

/* c (m, n) = a b, with a stored transposed or b stored transposed where said */
static void product(const net *p, int ta, int tb, int64_t m, int64_t n, int64_t k,
                    const float *restrict a, const float *restrict b, float *restrict c) {
    p->multiply(ROW_MAJOR, ta, tb, m, n, k, 1.0f, a, ta == PLAIN ? k : m, b, tb == PLAIN ? n : k, 0.0f,
                c, n);
}

static void sgd(float *restrict p, const float *restrict g, int64_t n, float lr) {
    for (int64_t i = 0; i < n; i++) p[i] -= lr * g[i];
}

static float cross_entropy(net *p, const int64_t *ix) {
    const int64_t B = p->B, V = p->V;
    float loss = 0;
    for (int64_t i = 0; i < B; i++) {
        float *restrict z = p->logits + i * V, top = -INFINITY, sum = 0;
        for (int64_t v = 0; v < V; v++) z[v] += p->b2[v];
        for (int64_t v = 0; v < V; v++) top = z[v] > top ? z[v] : top;
        const float target = z[p->y[ix[i]]] - top;
        for (int64_t v = 0; v < V; v++) z[v] = expf(z[v] - top);
        for (int64_t v = 0; v < V; v++) sum += z[v];
        loss += logf(sum) - target;
        const float scale = 1 / (sum * B);
        for (int64_t v = 0; v < V; v++) z[v] *= scale;  /* logits becomes its own gradient */
        z[p->y[ix[i]]] -= 1.0f / B;
    }
    return loss / B;
}

static void batch_norm_tanh(net *p) {
    const int64_t B = p->B, H = p->H;
    float *restrict mean = p->mean, *restrict inv = p->inv;
    memset(mean, 0, H * sizeof *mean);
    memset(inv, 0, H * sizeof *inv);
    for (int64_t i = 0; i < B; i++)
        for (int64_t j = 0; j < H; j++) mean[j] += p->raw[i * H + j];
    for (int64_t j = 0; j < H; j++) mean[j] /= B;
    for (int64_t i = 0; i < B; i++)
        for (int64_t j = 0; j < H; j++) {
            const float centred = p->raw[i * H + j] -= mean[j];
            inv[j] += centred * centred;
        }
    for (int64_t j = 0; j < H; j++) inv[j] = 1 / sqrtf(inv[j] / (B - 1) + 1e-5f);
    for (int64_t i = 0; i < B; i++)
        for (int64_t j = 0; j < H; j++) {
            const float raw = p->raw[i * H + j] *= inv[j];
            p->h[i * H + j] = tanhf(p->gain[j] * raw + p->bias[j]);
        }
}

static void batch_norm_tanh_backward(net *p) {
    const int64_t B = p->B, H = p->H;
    float *restrict dgain = p->dgain, *restrict dbias = p->dbias, *restrict dh = p->dh;
    memset(dgain, 0, H * sizeof *dgain);
    memset(dbias, 0, H * sizeof *dbias);
    for (int64_t i = 0; i < B; i++)
        for (int64_t j = 0; j < H; j++) {
            const float h = p->h[i * H + j], da = dh[i * H + j] *= 1 - h * h;
            dgain[j] += da * p->raw[i * H + j];
            dbias[j] += da;
        }
    for (int64_t i = 0; i < B; i++)
        for (int64_t j = 0; j < H; j++)
            dh[i * H + j] = p->gain[j] * p->inv[j] *
                            (dh[i * H + j] - dbias[j] / B - p->raw[i * H + j] * dgain[j] / (B - 1));
}

/* One step on the examples ix (B,) -> the loss before it. */
float mlp_step(net *p, const int64_t *ix, float lr) {
    const int64_t B = p->B, T = p->T, E = p->E, H = p->H, V = p->V, K = T * E;
    for (int64_t i = 0; i < B; i++)
        for (int64_t t = 0; t < T; t++)
            memcpy(p->flat + i * K + t * E, p->table + p->x[ix[i] * T + t] * E, E * sizeof(float));
    product(p, PLAIN, PLAIN, B, H, K, p->flat, p->w1, p->raw);
    batch_norm_tanh(p);
    product(p, PLAIN, PLAIN, B, V, H, p->h, p->w2, p->logits);
    const float loss = cross_entropy(p, ix);

    const float *dlogits = p->logits;
    memset(p->db2, 0, V * sizeof(float));
    for (int64_t i = 0; i < B; i++)
        for (int64_t v = 0; v < V; v++) p->db2[v] += dlogits[i * V + v];
    product(p, TRANSPOSED, PLAIN, H, V, B, p->h, dlogits, p->dw2);
    product(p, PLAIN, TRANSPOSED, B, H, V, dlogits, p->w2, p->dh);
    batch_norm_tanh_backward(p);
    product(p, TRANSPOSED, PLAIN, K, H, B, p->flat, p->dh, p->dw1);
    product(p, PLAIN, TRANSPOSED, B, K, H, p->dh, p->w1, p->dflat);
    memset(p->dtable, 0, V * E * sizeof(float));
    for (int64_t i = 0; i < B; i++)
        for (int64_t t = 0; t < T; t++) {
            float *restrict row = p->dtable + p->x[ix[i] * T + t] * E;
            for (int64_t e = 0; e < E; e++) row[e] += p->dflat[i * K + t * E + e];
        }

    sgd(p->table, p->dtable, V * E, lr);
    sgd(p->w1, p->dw1, K * H, lr);
    sgd(p->gain, p->dgain, H, lr);
    sgd(p->bias, p->dbias, H, lr);
    sgd(p->w2, p->dw2, H * V, lr);
    sgd(p->b2, p->db2, V, lr);
    return loss;
}

/* n steps, each on B examples drawn with replacement (xorshift64*; Vigna, 2016) -> the last loss. */
float mlp_train(net *p, int64_t n, float lr) {
    int64_t ix[p->B];
    float loss = 0;
    while (n-- > 0) {
        for (int64_t i = 0; i < p->B; i++) {
            p->random ^= p->random >> 12;
            p->random ^= p->random << 25;
            p->random ^= p->random >> 27;
            const uint64_t high = (p->random * 2685821657736338717ull) >> 32;
            ix[i] = (int64_t)(high * (uint64_t)p->N >> 32);
        }
        loss = mlp_step(p, ix, lr);
    }
    return loss;
}
