/* Dense matrices of doubles: making, reading, products, and solving linear systems. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t rows;
    size_t cols;
    double *data;
} Matrix;

Matrix *matrix_new(size_t rows, size_t cols) {
    Matrix *m = malloc(sizeof(Matrix));
    if (m == NULL) {
        return NULL;
    }
    m->rows = rows;
    m->cols = cols;
    m->data = calloc(rows * cols, sizeof(double));
    if (m->data == NULL) {
        free(m);
        return NULL;
    }
    return m;
}

void matrix_free(Matrix *m) {
    if (m != NULL) {
        free(m->data);
        free(m);
    }
}

double matrix_get(const Matrix *m, size_t row, size_t col) {
    return m->data[row * m->cols + col];
}

void matrix_set(Matrix *m, size_t row, size_t col, double value) {
    m->data[row * m->cols + col] = value;
}

Matrix *matrix_copy(const Matrix *m) {
    Matrix *copy = matrix_new(m->rows, m->cols);
    if (copy != NULL) {
        memcpy(copy->data, m->data, m->rows * m->cols * sizeof(double));
    }
    return copy;
}

Matrix *matrix_transpose(const Matrix *m) {
    Matrix *t = matrix_new(m->cols, m->rows);
    if (t == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < m->rows; i++) {
        for (size_t j = 0; j < m->cols; j++) {
            matrix_set(t, j, i, matrix_get(m, i, j));
        }
    }
    return t;
}

Matrix *matrix_multiply(const Matrix *a, const Matrix *b) {
    if (a->cols != b->rows) {
        return NULL;
    }
    Matrix *product = matrix_new(a->rows, b->cols);
    if (product == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < a->rows; i++) {
        for (size_t j = 0; j < b->cols; j++) {
            double sum = 0.0;
            for (size_t k = 0; k < a->cols; k++) {
                sum += matrix_get(a, i, k) * matrix_get(b, k, j);
            }
            matrix_set(product, i, j, sum);
        }
    }
    return product;
}

static void swap_rows(Matrix *m, size_t first, size_t second) {
    for (size_t j = 0; j < m->cols; j++) {
        double kept = matrix_get(m, first, j);
        matrix_set(m, first, j, matrix_get(m, second, j));
        matrix_set(m, second, j, kept);
    }
}

/* Solves a x = b by Gaussian elimination; returns 0, or -1 if a is singular. */
int matrix_solve(const Matrix *a, const double *b, double *x) {
    size_t n = a->rows;
    Matrix *work = matrix_copy(a);
    if (work == NULL) {
        return -1;
    }
    memcpy(x, b, n * sizeof(double));
    for (size_t k = 0; k < n; k++) {
        size_t pivot = k;
        for (size_t i = k + 1; i < n; i++) {
            if (fabs(matrix_get(work, i, k)) > fabs(matrix_get(work, pivot, k))) {
                pivot = i;
            }
        }
        if (fabs(matrix_get(work, pivot, k)) < 1e-12) {
            return -1;
        }
        if (pivot != k) {
            swap_rows(work, pivot, k);
            double kept = x[k];
            x[k] = x[pivot];
            x[pivot] = kept;
        }
        for (size_t i = k + 1; i < n; i++) {
            double factor = matrix_get(work, i, k) / matrix_get(work, k, k);
            for (size_t j = k; j < n; j++) {
                matrix_set(work, i, j, matrix_get(work, i, j) - factor * matrix_get(work, k, j));
            }
            x[i] -= factor * x[k];
        }
    }
    for (size_t k = n; k-- > 0;) {
        for (size_t j = k + 1; j < n; j++) {
            x[k] -= matrix_get(work, k, j) * x[j];
        }
        x[k] /= matrix_get(work, k, k);
    }
    matrix_free(work);
    return 0;
}

void matrix_print(const Matrix *m, FILE *out) {
    for (size_t i = 0; i < m->rows; i++) {
        for (size_t j = 0; j < m->cols; j++) {
            fprintf(out, "%10.4f", matrix_get(m, i, j));
        }
        fputc('\n', out);
    }
}
